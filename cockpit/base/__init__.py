"""Clock, errors, redaction, ids and limits: what every layer uses."""
