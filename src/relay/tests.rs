//! The three together, in a simulated node.
