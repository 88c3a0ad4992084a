"""`cockpit doctor`: is everything a plan names there, the right one, on time, and ours to use?

It changes nothing in the world: it reads, asks what it may do, connects and hangs up. What leaves a trace at
most: an identity token that is obtained and dropped, and a time-stamp nobody keeps.
"""
