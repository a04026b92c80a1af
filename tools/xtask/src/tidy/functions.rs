//! Lengths of Python's functions, from their layout. Clippy measures those of Rust
//! (`too_many_lines`).

/// Names and lengths of a Python file's functions, from `def` to the last line that is indented
/// further.
pub(super) fn of_python(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut functions = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let code = code.strip_prefix("async ").unwrap_or(code);
        let Some(rest) = code.strip_prefix("def ") else {
            continue;
        };
        let name = rest.split('(').next().unwrap_or_default();
        let mut last = index;
        for (at, below) in lines.iter().enumerate().skip(index + 1) {
            let closes = below.trim_start().starts_with(')');
            if !below.trim().is_empty() && indent(below) <= indent(line) && !closes {
                break;
            }
            if !below.trim().is_empty() {
                last = at;
            }
        }
        functions.push((name, last - index + 1));
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_functions_are_measured() {
        let text = "\
class A:
    def first(self):
        return 1

    async def second(
        self,
    ):
        return 2


def third():
    pass
";
        assert_eq!(of_python(text), [("first", 2), ("second", 4), ("third", 2)]);
    }
}
