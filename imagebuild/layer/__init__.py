"""One layer: wheels become members with bytecode, members become a layer, and the layer's invariants are checked."""
