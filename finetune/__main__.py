"""`python -m finetune`: the same as the command `finetune`."""

from finetune.cli import main

raise SystemExit(main())
