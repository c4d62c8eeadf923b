"""`fvv doctor`: check the installation, and say what to fix."""

from fvv_lib.cli.flags import parse
from fvv_lib.cli.starting import quick_imports


def main(arguments: list[str]) -> bool:
    """Return True (exit code 1) if something that the course needs does not work."""
    parse([], arguments, "doctor", "Check the installation, and say what to fix.")
    with quick_imports():
        from fvv_lib.course.environment import examine

    checks = examine()
    print("\n".join(map(str, checks)))
    failed = [check.name for check in checks if check.required and not check.works]
    print(f"\n{'Fix first: ' + failed[0] if failed else 'Everything that the course needs works.'}")
    return bool(failed)
