"""Training of priors: data generators, the loop, and the evaluation of denoisers."""
