"""Launch scripts, run by bash where they can do no harm: which commands they start, with which arguments."""
