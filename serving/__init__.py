"""The live side: sockets, the online mirror, the journal and the Bento around cift_models' engine."""
