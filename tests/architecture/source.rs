//! Just enough of Rust's grammar to see what a file names: tokens without comments and literals,
//! without what only tests compile, and the paths in them.
//!
//! ```text
//! text --tokens--> tokens --without_tests--> tokens --paths--> `crate::ir::Graph`, line 12
//!                                                                   `--resolve--> ir::Graph
//! ```
//!
//! What this module deliberately does not do: it follows no re-exports and expands no macros. A
//! path counts for what it says.

use std::collections::BTreeSet;

/// A word, a mark or a literal, and its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// A path as it was written, split at `::`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path<'a> {
    pub(crate) segments: Vec<&'a str>,
    pub(crate) line: usize,
    /// Inline modules around it, outermost first.
    pub(crate) inside: Vec<&'a str>,
}

/// What a literal of any kind becomes.
const LITERAL: &str = "\"";

/// The tokens of a text: words, `::`, single marks, and literals without their content.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(first) = lexer.rest().chars().next() {
        let (line, start) = (lexer.line, lexer.at);
        let token = match first {
            '/' if lexer.rest().starts_with("//") => {
                lexer.skip_to("\n");
                None
            }
            '/' if lexer.rest().starts_with("/*") => {
                lexer.skip_block_comment();
                None
            }
            '"' => Some(lexer.quoted('"')),
            '\'' => lexer.character_or_lifetime(),
            ':' if lexer.rest().starts_with("::") => {
                lexer.skip(2);
                Some("::")
            }
            _ if is_word(first) => {
                lexer.skip_while(is_word);
                lexer.rest_of_literal(start).or_else(|| Some(&text[start..lexer.at]))
            }
            _ => {
                lexer.skip(first.len_utf8());
                Some(&text[start..lexer.at]).filter(|_| !first.is_whitespace())
            }
        };
        tokens.extend(token.map(|text| Token { text, line }));
    }
    tokens
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip(&mut self, num_bytes: usize) {
        let end = self.text.len().min(self.at + num_bytes);
        self.line += self.text[self.at..end].matches('\n').count();
        self.at = end;
    }

    fn skip_while(&mut self, is_in: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.skip(rest.find(|character| !is_in(character)).unwrap_or(rest.len()));
    }

    /// To just behind the next `end`.
    fn skip_to(&mut self, end: &str) {
        let rest = self.rest();
        self.skip(rest.find(end).map_or(rest.len(), |at| at + end.len()));
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
            } else {
                self.skip(rest.chars().next().map_or(0, char::len_utf8));
            }
            if depth == 0 || self.rest().is_empty() {
                return;
            }
        }
    }

    /// A literal from its opening mark to its closing one.
    fn quoted(&mut self, mark: char) -> &'static str {
        self.skip(1);
        while let Some(next) = self.rest().chars().next() {
            self.skip(next.len_utf8());
            match next {
                '\\' => self.skip(self.rest().chars().next().map_or(0, char::len_utf8)),
                _ if next == mark => break,
                _ => {}
            }
        }
        LITERAL
    }

    fn character_or_lifetime(&mut self) -> Option<&'a str> {
        let mut after = self.rest().chars().skip(1);
        let is_character = after.next() == Some('\\') || after.next() == Some('\'');
        if is_character {
            return Some(self.quoted('\''));
        }
        self.skip(1);
        self.skip_while(is_word);
        None
    }

    /// After a word: it may be the prefix of a literal.
    fn rest_of_literal(&mut self, start: usize) -> Option<&'a str> {
        let next = self.rest().chars().next()?;
        match (&self.text[start..self.at], next) {
            ("b" | "c", '"') | ("b", '\'') => Some(self.quoted(next)),
            ("r" | "br" | "cr", '"' | '#') => {
                let num_marks = self.rest().bytes().take_while(|byte| *byte == b'#').count();
                if !self.rest()[num_marks..].starts_with('"') {
                    return None;
                }
                self.skip(num_marks + 1);
                self.skip_to(&format!("\"{}", "#".repeat(num_marks)));
                Some(LITERAL)
            }
            _ => None,
        }
    }
}

/// The tokens that are compiled without tests, and the names of the test modules in other files.
pub(crate) fn without_tests<'a>(tokens: &[Token<'a>]) -> (Vec<Token<'a>>, Vec<&'a str>) {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !is_cfg_test(tokens, at) {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        while text(at) == "#" {
            at = end_of_group(tokens, at + 1);
        }
        let end = end_of_item(tokens, at);
        let item = &tokens[at..end];
        if item.last().is_some_and(|token| token.text == ";") {
            let name = item.windows(2).find(|pair| pair[0].text == "mod").map(|pair| pair[1]);
            modules.extend(name.map(|name| name.text));
        }
        at = end;
    }
    (kept, modules)
}

/// Whether `#[cfg(test)]` or `#[cfg(all(test, ...))]` begins here.
fn is_cfg_test(tokens: &[Token<'_>], at: usize) -> bool {
    let begins = |words: &[&str]| {
        let found = tokens[at..].iter().map(|token| token.text);
        found.take(words.len()).eq(words.iter().copied())
    };
    begins(&["#", "[", "cfg", "(", "test"]) || begins(&["#", "[", "cfg", "(", "all", "(", "test"])
}

/// Just behind the group that opens here.
fn end_of_group(tokens: &[Token<'_>], start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Just behind the item that begins here: after its `;` or its body.
fn end_of_item(tokens: &[Token<'_>], start: usize) -> usize {
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].text {
            ";" | "{" => return end_of_group(tokens, at),
            "(" | "[" => at = end_of_group(tokens, at),
            ")" | "]" | "}" => return at,
            _ => at += 1,
        }
    }
    at
}

/// Every path of more than one segment, and all that `use` declares.
pub(crate) fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut paths = Vec::new();
    // Inline modules, with the depth of braces that each begins at.
    let mut inside: Vec<(&'a str, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < tokens.len() {
        let first = paths.len();
        match text(at) {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inside.retain(|(_, start)| *start <= depth);
            }
            "mod" if text(at + 2) == "{" => inside.push((tokens[at + 1].text, depth + 1)),
            "use" if text(at + 1) != "<" => at = use_tree(tokens, at + 1, &[], &mut paths) - 1,
            word if word.chars().all(is_word) && text(at + 1) == "::" => {
                // `impl ::serde::Serialize`: the path begins behind the keyword.
                let is_keyword = matches!(word, "impl" | "for" | "dyn" | "mut" | "in" | "as");
                let is_method = at > 0 && text(at - 1) == ".";
                if !is_keyword && !is_method {
                    at = use_tree(tokens, at, &[], &mut paths) - 1;
                }
            }
            _ => {}
        }
        for path in &mut paths[first..] {
            path.inside = inside.iter().map(|(name, _)| *name).collect();
        }
        at += 1;
    }
    paths
}

/// Collects the paths of the tree that begins here; gives where it ends.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    start: usize,
    prefix: &[&'a str],
    paths: &mut Vec<Path<'a>>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut segments = prefix.to_vec();
    let mut at = start;
    if text(at) == "::" {
        at += 1;
    }
    loop {
        if text(at) == "{" {
            let end = end_of_group(tokens, at);
            at += 1;
            while at < end - 1 {
                at = use_tree(tokens, at, &segments, paths).max(at + 1);
                // The alias, and the comma.
                while at < end - 1 && text(at - 1) != "," {
                    at += 1;
                }
            }
            return end;
        }
        let is_end = !text(at).chars().all(is_word) && text(at) != "*";
        if is_end || text(at).is_empty() {
            break;
        }
        segments.push(tokens[at].text);
        at += 1;
        if text(at) != "::" {
            break;
        }
        at += 1;
    }
    if segments.len() > prefix.len() {
        paths.push(Path { segments, line: tokens[start].line, inside: Vec::new() });
    }
    at.max(start + 1)
}

/// What a path may begin with.
pub(crate) struct Names<'a> {
    /// What `crate` means in the file; nothing for the root package.
    pub(crate) package: &'a str,
    /// Crates by the name that code calls them, with the name that we give them.
    pub(crate) crates: &'a [(String, String)],
    /// Every module of every package.
    pub(crate) modules: &'a BTreeSet<String>,
}

impl Names<'_> {
    /// The absolute name of a path in a module; `None`: it begins with a local name.
    pub(crate) fn resolve(&self, path: &Path<'_>, module: &str) -> Option<String> {
        let (first, rest) = path.segments.split_first()?;
        let mut base: Vec<&str> = module.split("::").collect();
        base.extend(&path.inside);
        let mut rest = rest.to_vec();
        match *first {
            "self" => {}
            "crate" => base = vec![self.package],
            "super" => {
                base.pop();
                while rest.first() == Some(&"super") {
                    base.pop();
                    rest.remove(0);
                }
            }
            "std" | "core" | "alloc" => base = vec!["std"],
            _ => {
                base.push(first);
                if !self.modules.contains(&join(&base)) {
                    let (_, name) = self.crates.iter().find(|(name, _)| name == first)?;
                    base = vec![name];
                }
            }
        }
        base.extend(rest);
        Some(join(&base))
    }
}

/// The modules of the root package begin with nothing.
fn join(segments: &[&str]) -> String {
    let named: Vec<&str> = segments.iter().copied().filter(|name| !name.is_empty()).collect();
    named.join("::")
}

#[test]
fn comments_literals_and_tests_name_nothing() {
    let text = r##"
        //! use crate::a;
        /* use crate::b; /* nested */ use crate::c; */
        const X: &str = "use crate::d; \" use crate::e;";
        const Y: &str = r#"use crate::f; " "#;
        const Z: (char, u8) = ('"', b'\'');
        fn g<'a>(x: &'a str) -> Option<h::I> { todo::<u8>() }
        #[cfg(test)]
        #[allow(unused)]
        mod tests { use crate::j; fn k() { use l::m; } }
        #[cfg(all(test, unix))]
        pub(crate) mod more;
        #[cfg(test)]
        use crate::n;
        use crate::o;
    "##;
    let tokens = tokens(text);
    let (tokens, modules) = without_tests(&tokens);
    let found: Vec<String> = paths(&tokens).iter().map(|path| path.segments.join("::")).collect();
    assert_eq!(found, ["h::I", "todo", "crate::o"]);
    assert_eq!(modules, ["more"]);
    assert_eq!(tokens.last().unwrap().line, 15);
}

#[test]
fn trees_and_relative_paths_are_resolved() {
    let text = "
        use crate::{a::{self, B}, c as d, e::*};
        use super::{super::f, g};
        use tower;
        mod inner { use super::h; }
        impl ::serde::Serialize for I { fn j() { self.k::<u8>(); child::l(); std::env::var(); } }
    ";
    let modules = BTreeSet::from(["root::x::y::child".to_owned()]);
    let crates = ["serde", "tower"].map(|name| (name.to_owned(), name.to_owned()));
    let names = Names { package: "root", crates: &crates, modules: &modules };
    let tokens = tokens(text);
    let found: Vec<String> =
        paths(&tokens).iter().filter_map(|path| names.resolve(path, "root::x::y")).collect();
    let expected = [
        "root::a::self",
        "root::a::B",
        "root::c",
        "root::e::*",
        "root::f",
        "root::x::g",
        "tower",
        "root::x::y::h",
        "serde::Serialize",
        "root::x::y::child::l",
        "std::env::var",
    ];
    assert_eq!(found, expected);
}
