"""`paystorm verify`: the tables, the warehouse and the verdict topic against the batch oracle (SEMANTICS.md §7)."""
