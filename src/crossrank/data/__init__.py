"""Reading files: lines, rows, the formats of TREC, and test collections."""
