"""From a problem to its result: which plan, which code, whose weights, what memory and threads."""
