"""`fvv doctor`: what is installed, what works, what to do."""

from fvv_lib.cli.flags import parse
from fvv_lib.cli.starting import quick_imports


def main(arguments: list[str]) -> bool:
    """True, which is exit code 1, when something that the course needs does not work."""
    parse([], arguments, "doctor", "Say what is installed, what works, and what to do.")
    with quick_imports():
        from fvv_lib.course.environment import examine

    checks = examine()
    print("\n".join(map(str, checks)))
    failed = [check.name for check in checks if check.required and not check.works]
    print(f"\n{'Fix first: ' + failed[0] if failed else 'All that the course needs is there.'}")
    return bool(failed)
