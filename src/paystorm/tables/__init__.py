"""Tables for state, lists, cases and dead letters: SQLite and HBase, behind one interface (`paystorm.tables.base`)."""
