"""The recipe that trains crossrank-mini; README.md describes its steps."""
