"""Device identity on the server's side: the two certificate authorities, nonces, and proofs of the device's key."""
