"""Whole tasks that fastrnn is used for, measured as a user would run them: ``python -m bench workload NAME``."""
