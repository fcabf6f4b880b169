"""Paper tables: their plan, the two ways to run it, the records of what was measured, the tables made from them."""
