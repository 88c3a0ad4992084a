"""The hash-chained journal: events, chain, writer, reader, heads and the fold."""
