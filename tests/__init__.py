"""A package, so that no other distribution's folder of this name (pykafka installs one) is taken for it."""
