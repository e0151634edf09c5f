"""Hostile input to everything that reads what a user, another program or a broken disk may have written."""
