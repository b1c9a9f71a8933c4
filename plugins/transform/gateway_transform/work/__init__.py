"""The worker: takes jobs, runs each in a box, publishes what came out."""
