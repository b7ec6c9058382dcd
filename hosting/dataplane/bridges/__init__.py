"""A client of one era before a server of the other: what each says, in the other's words."""
