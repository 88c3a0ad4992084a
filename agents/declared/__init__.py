"""The roster's entries as data, in the order of seed section 4."""
