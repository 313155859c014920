"""``python -m recycle COMMAND``: reads the command line and runs one command.

What is wrong with the input is told in one line. recycle/options/ has the commands and their
options, recycle/commands/ what they do.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit code 0: done; 2: bad input, in one line; 130: stopped by a person;
    141: nobody reads the output any more, as where it goes through ``| head``."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        # Imported here: loading torch takes seconds, in which a person may press Ctrl-C too.
        from recycle.options import read_options

        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # any name can be printed
        options = read_options(given)
        code = options.run_command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _close_output()
        return 141
    except (ValueError, KeyError, OSError, MemoryError, RuntimeError) as error:
        if debug or (line := in_one_line(error)) is None:
            raise
        if isinstance(error, OSError) and error.filename is None:
            _close_output()  # it may be the output that cannot be written
        print(f"recycle: {line}", file=sys.stderr)
        return 2


_NO_ROOM = (
    "not enough memory on the device: choose smaller sizes (model.*, train.rows, train.length), "
    "--dtype bf16, another --device, or close programs that use this one"
)


def in_one_line(error: Exception) -> str | None:
    """What an error says to a person; None where it is a fault of the program's own."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "not enough memory: choose smaller sizes (model.*, rows, length), or other files"
    if isinstance(error, RuntimeError):
        return _NO_ROOM if "out of memory" in str(error) else None  # CUDA's words
    if isinstance(error, OSError) and error.strerror and error.filename is None:
        return shortened(f"{error.strerror}: the output or a file cannot be written")
    if isinstance(error, OSError) and error.strerror:
        return shortened(f"{error.filename}: {error.strerror}")
    return shortened(str(error.args[0] if isinstance(error, KeyError) and error.args else error))


def shortened(text: str, most: int = 280) -> str:
    """A text on one line: no control characters, and of a long one the beginning and the end."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= most else f"{line[: most - 120]} ... {line[-110:]}"


def _close_output() -> None:
    """Send the rest of the output nowhere, so that Python does not fail on it once more at its
    end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):  # there is no real output, as in a test
        pass


if __name__ == "__main__":
    sys.exit(main())
