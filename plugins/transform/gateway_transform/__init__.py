"""Document jobs: a tar.gz and a list of steps in, a tar.gz out."""
