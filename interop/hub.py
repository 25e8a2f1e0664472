"""Exports to the hub: `rollhouse export trl hf:OWNER/NAME` uploads a table and its card, which `datasets.load_dataset` reads.

`Dataset.push_to_hub` cannot encode columns of JSON, so the file that the export wrote is uploaded as it is.
"""

from pathlib import Path

from ..base.errors import ConfigError, RollhouseError
from .card import WITH_CARD, is_ours
from .places import HUB


def check_hub(format_name: str, place: str) -> str:
    """The name of the dataset. Raises ConfigError for a format without a card, for a name that is more than OWNER/NAME, and without the client."""
    name = place.removeprefix(HUB)
    if format_name not in WITH_CARD:
        raise ConfigError(f"{format_name} is not uploaded.", f"Formats that are: {', '.join(WITH_CARD)}.")
    if name.count("/") != 1 or set(name) & set(":@"):
        raise ConfigError(f"{place!r} names no dataset to write.", f"Write {HUB}OWNER/NAME.")
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise ConfigError("The package huggingface_hub is not installed.", "Install it with `pip install huggingface_hub`.") from error  # fmt: skip
    return name


def push(name: str, folder: Path) -> None:
    """Uploads a folder as a dataset, which is private when it is new.

    Raises ConfigError when somebody else wrote the dataset's card, and RollhouseError when the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        try:
            there = Path(api.hf_hub_download(name, "README.md", repo_type="dataset"))
        except EntryNotFoundError:
            there = None
        if there is not None and not is_ours(there):
            raise ConfigError(f"The card of {name} was not written by rollhouse.", "Export to another dataset.")
        api.upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message="rollhouse export")
    except (HfHubHTTPError, OSError) as error:
        raise RollhouseError(f"The dataset {name} could not be uploaded: {error}", "Log in with `hf auth login` and check the name.") from error  # fmt: skip
