"""The tree of errors. Each carries its data and reads as one line: the thing, the value, the way out."""

from collections.abc import Sequence


class PaystormError(Exception):
    """Something that a person can mend; shown as one line, without a trace, exit code 2."""

    exit_code = 2


class ConfigError(PaystormError):
    """A setting, rule or source declaration that cannot be used."""


class UsageError(PaystormError):
    """A command's argument or input file that cannot be used."""


class NotThereError(UsageError):
    """What is named does not exist."""


class ConflictError(UsageError):
    """What is wanted does not go with what others have done, or with what is there."""


class DataFolderError(PaystormError):
    """The data folder cannot be used: locked, of a newer version, not writable, full."""


class LogError(PaystormError):
    """The log cannot be read or appended to."""


class RecordTooLargeError(LogError):
    """Records are longer than the log takes. None of what was to be appended with them has been."""

    def __init__(self, text: str, records: Sequence[int]) -> None:
        """`records`: which ones, by their place in what was to be appended; at least one."""
        super().__init__(text)
        self.records = tuple(records)


class OffsetsLostError(LogError):
    """The log no longer fits the committed offsets: a topic made anew, or offsets gone."""


class TablesError(PaystormError):
    """The tables cannot be read or written now."""


class PrunedError(TablesError):
    """Events that were over their retention and are gone."""


class StaleCopyError(PaystormError):
    """The copy of the lists is older than the refresh bound; nothing may be decided with it."""


class FencedError(PaystormError):
    """A newer version of the source owns the shard; this task is a left-over and must do nothing."""


class ClusterError(PaystormError):
    """The Storm cluster cannot be reached, or has no such topology."""


class StackError(PaystormError):
    """A real server of the stack cannot be started, reached or stopped."""
