"""Streamparse topologies in one process, without a JVM: with threads for `paystorm run`, in steps for the simulator."""
