"""Error types: each message is one sentence with the argument, its value, what is allowed and what to do."""

LONGEST = 1500  # characters of a message: files can hold names and values of any length


class PushforwardError(Exception):
    """What all errors of this library share; `exit_status` is what the command line returns.

    A message that quotes a file or a user at length loses its middle, and characters that would control the terminal are escaped.
    """

    exit_status = 1

    def __init__(self, message: str = "") -> None:
        text = "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in message)
        super().__init__(text if len(text) <= LONGEST else f"{text[: 2 * LONGEST // 3]} ... {text[-LONGEST // 3 :]}")


class UserError(PushforwardError, ValueError):
    """Something the user wrote is not allowed."""

    exit_status = 2


class ShapeError(UserError):
    """A tensor's shape does not fit the model."""


class DtypeError(UserError, TypeError):
    """A tensor's dtype does not fit the model."""


class ConditionError(UserError):
    """A condition is missing, superfluous or out of range."""


class DataError(UserError):
    """A data set cannot be used as it is."""


class DamagedDataError(DataError):
    """A file of data is truncated or damaged, which happened to it: the path is right."""

    exit_status = 1


class ShardError(DataError):
    """A shard cannot be reached or has changed: none of its examples is replaced by another, as a damaged one is."""

    exit_status = 1


class ConfigError(UserError):
    """A configuration has an unknown key, a wrong type or a value that is not allowed."""


class StoppedWarning(UserWarning):
    """A signal ended training before its last step."""


def missing(owner: object, method: str, returns: str) -> NotImplementedError:
    """Return the error of a base class for a method that a subclass must define."""
    return NotImplementedError(f"{type(owner).__name__} has no {method}; define it: it returns {returns}.")


class RunExistsError(UserError):
    """The run folder exists, and neither overwriting nor resuming was requested."""


class NotInvertibleError(PushforwardError, TypeError):
    """The model has no map from data to noise, hence no log_prob or encode."""

    exit_status = 2


class SolverError(PushforwardError, ArithmeticError):
    """An adaptive solver cannot continue: its steps became too small or too many, or the field is not finite."""


class OutOfMemoryError(PushforwardError):
    """The memory of a device is too small; the message gives options that reduce it."""


class CheckpointError(PushforwardError):
    """A checkpoint is missing, truncated or does not fit the model."""


class NoCheckpointError(CheckpointError, UserError):
    """A path or name is given where there is no run, checkpoint or model of the kind that is asked for."""


class NotFiniteError(PushforwardError, ArithmeticError):
    """A network that is not a solver's field returned NaN or infinity."""


class DivergedError(PushforwardError, ArithmeticError):
    """Training met losses that are not finite."""


class ProcessError(PushforwardError):
    """Another process of a distributed run failed, hangs or has terminated."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class WorkerError(PushforwardError):
    """A worker process that loads data was terminated or does not respond."""


class AliasingError(PushforwardError, RuntimeError):
    """Memory is written that other elements, a caller or the backward pass still need; `report` is what was found."""

    report: object = None
