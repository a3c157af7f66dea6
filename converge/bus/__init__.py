"""Wake-ups: hints that there is something to look at. The database is the truth; a hint that is
lost costs time and nothing else."""
