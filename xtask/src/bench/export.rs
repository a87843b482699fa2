use anyhow::Result;
pub(super) fn run(_arguments: &[&str]) -> Result<()> {
    Ok(())
}
