"""`benco hub push`: a model folder to the Hugging Face Hub."""

import argparse

_EPILOG = """\
FOLDER is what "benco hub save" or save_pretrained wrote. "hf auth login" logs in.

example:
  benco hub push hub/sparsevit-casia someone/sparsevit-casia --private
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `benco hub push`."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="a model folder")
    add("repository", metavar="OWNER/NAME", help="the repository; made where it is missing")
    add("--private", action="store_true", help="make the repository private, where it is made")
    add("--revision", metavar="BRANCH", help="the branch (the main one)")
    add("--message", default="Model of sparsevit-plugin", help="of the commit (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Push, and print the commit's address.

    Raises:
        UserError: The folder is no model folder, or the Hub refuses or cannot be reached.
    """
    from sparsevit_plugin.hub.remote import push

    commit = push(
        args.folder,
        args.repository,
        private=args.private or None,
        revision=args.revision,
        message=args.message,
    )
    print(commit)
    return 0
