"""How a search goes through a space of layouts: what it varies, what candidates take at least, which are evaluated."""
