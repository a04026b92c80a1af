//! How long functions are, told from the layout that rustfmt and Python's syntax enforce: no parser.

/// Names and lengths of a Rust file's functions, signature and braces included. A function ends at the
/// first line that is its own indentation and a closing brace.
pub(super) fn of_rust(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        // A name that a macro fills in is laid out as the macro likes.
        let Some(name) = rust_name(code).filter(|name| !name.starts_with('$')) else {
            continue;
        };
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let opens = |line: &str| line.ends_with('{') || line.ends_with('}');
        let signature = lines[index..].iter().position(|line| opens(line) || line.ends_with(';'));
        let has_body = signature.is_some_and(|at| lines[index + at].ends_with('{'));
        if !has_body {
            continue;
        }
        if let Some(length) = lines[index..].iter().position(|line| *line == end) {
            functions.push((name, length + 1));
        }
    }
    functions
}

/// The name, where a line begins a function.
fn rust_name(code: &str) -> Option<&str> {
    let mut words = code.split(' ');
    loop {
        let word = words.next()?;
        if word == "fn" {
            return words.next()?.split(['(', '<']).next();
        }
        let may_precede = ["async", "const", "unsafe", "extern", "default", "\"C\""]
            .contains(&word)
            || word.starts_with("pub");
        if !may_precede {
            return None;
        }
    }
}

/// Names and lengths of a Python file's functions, from `def` to the last line that is further in.
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
    fn rust_functions_are_measured() {
        let text = "\
trait A {
    fn declared(
        &self,
    ) -> u8;
    fn short(&self) {}
}
pub(crate) async fn outer<T>(
    a: T,
) -> u8 {
    fn inner() {
        call();
    }
    1
}
";
        assert_eq!(of_rust(text), [("outer", 8), ("inner", 3)]);
    }

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
