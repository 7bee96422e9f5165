-- Applies a batch, as apply_unlimited.lua says, also to hashes with a limit of series.

--- @include "includes/add_limited"
--- @include "apply_unlimited"
