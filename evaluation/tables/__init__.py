"""Paper tables: their plan, the two ways to run it, the records of the measurements, and the tables."""
