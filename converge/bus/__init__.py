"""Wake-ups: hints to look into the database, which is the truth. A lost hint costs time and nothing
else."""
