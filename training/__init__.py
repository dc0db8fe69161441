"""The recipe of crossrank-mini; README.md has its steps."""
