"""Agents: processes that receive notifications in batches, and take them through a pipeline."""
