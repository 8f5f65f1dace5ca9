"""What `paystorm doctor` looks at: each check says what it found, and what mends what is wrong."""

from paystorm.doctor.checks import Check, Finding, Result, failed, ok, run_checks, warning

__all__ = ["Check", "Finding", "Result", "failed", "ok", "run_checks", "warning"]
