"""What operators and analysts do with dead letters, lists and cases: plain functions, for the command line and HTTP.

Every function takes a `Desk` (the storage and the project's sources) and, where something is changed, a `Who`; what it
gives is a frozen dataclass or a row of the tables. Nothing here prints, and nothing asks a question back.
"""

from paystorm.desk.base import Desk, Who

__all__ = ["Desk", "Who"]
