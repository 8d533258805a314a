"""The driver's side: which solver, the solvers themselves, and what they ask of the workers."""
