"""What a changed rule would have done over the warehouse's history, against what today's does (docs/backtest.md)."""

from paystorm.backtest.compare import Comparison, Effect, backtest
from paystorm.backtest.events import History, files_of

__all__ = ["Comparison", "Effect", "History", "backtest", "files_of"]
