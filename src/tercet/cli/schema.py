"""`tercet schema`: the JSON schema of topology files."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON schema of topology files, for editors and for those who write them by program.

    \b
    Examples:
      tercet schema > topology.schema.json
      # then, as the first line of a topology file (VS Code, with the YAML extension):
      # yaml-language-server: $schema=topology.schema.json
    """
    from tercet.launch.topology_file import schema_text

    typer.echo(schema_text())
