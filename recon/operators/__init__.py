"""Forward operators, one family a file; `catalog` names them, `registry` draws and builds them."""
