"""What an operator can do: each POST translates a form into one call of an operation, and its errors into words."""
