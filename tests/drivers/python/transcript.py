"""A transcript of what a driver saw: the same script runs against one PostgreSQL and through the gateway, and the
runner (tests/tests/drivers.rs) compares what it prints, step by step.

`== step NAME` begins what must be equal, `== refused NAME` what the gateway must refuse with 0A000, detail and hint, and
PostgreSQL must do; `== known NAME` a difference that README's limits tell of; `== end` is the last line.
"""

import contextlib
import pathlib
import sys

DRIVERS = pathlib.Path(__file__).resolve().parent.parent
FIRST_USER_OID = 16384


def statements(name):
    """The statements of a file of this directory's parent, one after the other."""
    text = (DRIVERS / name).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip()]


def type_name(oid):
    """User types have other OIDs on every server."""
    return oid if oid < FIRST_USER_OID else "user"


def text_of(value):
    if isinstance(value, memoryview):
        value = bytes(value)
    if isinstance(value, float):
        return repr(value)
    return repr(value)


class Transcript:
    def __init__(self, diagnose):
        """`diagnose(exception)` gives (SQLSTATE, message, detail, hint) of a server's error, or None."""
        self.diagnose = diagnose

    def show(self, *values):
        print(" ", " | ".join(value if isinstance(value, str) else text_of(value) for value in values))

    def rows(self, rows):
        for row in rows:
            print(" ", " | ".join(text_of(value) for value in row))

    def _error(self, error):
        found = self.diagnose(error)
        if found is None:
            raise error
        return found

    def step(self, name):
        return self._compared("step", name)

    def known(self, name):
        """What differs, as README's limits say."""
        return self._compared("known", name)

    @contextlib.contextmanager
    def _compared(self, kind, name):
        print(f"== {kind} {name}")
        try:
            yield
        except Exception as error:  # The next steps are still worth seeing.
            found = self.diagnose(error)
            what = " ".join(str(part) for part in found if part) if found else str(error)
            print(f"  RAISED {type(error).__name__} {what}")
        sys.stdout.flush()

    @contextlib.contextmanager
    def fails(self):
        """What is inside must fail; SQLSTATE, message and detail are compared."""
        try:
            yield
        except Exception as error:
            state, message, detail, _ = self._error(error)
            print("  ERROR", state, message, *([f"({detail})"] if detail else []))
        else:
            print("  no error")

    @contextlib.contextmanager
    def refused(self, name):
        print(f"== refused {name}")
        try:
            yield
        except Exception as error:
            state, message, detail, hint = self._error(error)
            explained = "" if detail and hint else " WITHOUT DETAIL OR HINT"
            print(f"  {state} {message}{explained}")
        else:
            print("  done")
        sys.stdout.flush()

    def end(self):
        print("== end")
