//! The gateway alone; whole clusters are in the simulation of `tests/it`.
