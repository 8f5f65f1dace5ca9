"""What paystorm keeps in its tables: one module a kind of row, over the interface of `paystorm.tables.base`."""
