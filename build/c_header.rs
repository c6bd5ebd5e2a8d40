//! Makes Rust's declarations from the C headers of `src/native/`, which therefore are the only place that declares a C
//! function, struct or number: a small bindgen for the C that these headers use, without libclang.
//!
//! Understood: `enum { A = 1 }`, `typedef void *name;`, `typedef struct name name;`, `typedef struct { .. } name;` and
//! functions, over fixed-width numbers and pointers. Anything else stops the build.

/// The Rust text for a header: constants, `#[repr(C)]` structs and one `extern` block.
pub fn rust_from(header: &str) -> String {
    let mut out = Generated::default();
    for declaration in declarations(header) {
        out.add(&declaration);
    }
    format!("{}unsafe extern \"C\" {{\n{}}}\n", out.types, out.functions)
}

#[derive(Default)]
struct Generated {
    types: String,
    functions: String,
    /// Names that stand for `void *`.
    handles: Vec<String>,
    /// Names of structs that only C knows.
    opaque: Vec<String>,
}

/// The declarations of a header, each on one line, without comments and preprocessor lines.
fn declarations(header: &str) -> Vec<String> {
    let lines = header.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let text = lines.filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join(" ");
    let body = text.trim().trim_start_matches("extern \"C\" {");
    let (mut all, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => break,
            ';' if depth == 0 => {
                all.push(body[start..at].split_whitespace().collect::<Vec<_>>().join(" "));
                start = at + 1;
            }
            _ => {}
        }
    }
    all
}

impl Generated {
    fn add(&mut self, declaration: &str) {
        if let Some(rest) = declaration.strip_prefix("enum ") {
            let (_, values) = rest.split_once('{').expect("an enum with values");
            for value in values.trim_end_matches('}').split(',') {
                let (name, number) = value.split_once('=').expect("a value with its number");
                self.types += &format!("pub const {}: i32 = {};\n", name.trim(), number.trim());
            }
        } else if let Some(name) = declaration.strip_prefix("typedef void *") {
            self.handles.push(name.to_owned());
        } else if let Some(rest) = declaration.strip_prefix("typedef struct {") {
            let (fields, name) = rest.split_once('}').expect("a struct with a name");
            let fields: String = fields.split(';').flat_map(|field| self.fields(field.trim())).collect();
            self.types += &format!(
                "#[repr(C)]\n#[derive(Debug, Clone, Copy)]\npub struct {} {{\n{fields}}}\n",
                rust_name(name.trim())
            );
        } else if let Some(rest) = declaration.strip_prefix("typedef struct ") {
            self.opaque.push(rest.split(' ').next().expect("a name").to_owned());
        } else {
            self.function(declaration);
        }
    }

    /// `const float *cos, *sin` as two fields.
    fn fields(&self, field: &str) -> Vec<String> {
        let mut base = "";
        let declarators = field.split(',').filter(|part| !part.is_empty()).map(|part| {
            if base.is_empty() {
                let end = part.find('*').unwrap_or_else(|| part.rfind(' ').expect("a type and a name"));
                base = &part[..end];
                return self.variable(part);
            }
            self.variable(&format!("{base} {}", part.trim()))
        });
        declarators.map(|(name, kind)| format!("    pub {name}: {kind},\n")).collect()
    }

    fn function(&mut self, declaration: &str) {
        let (front, arguments) = declaration.split_once('(').expect("a function");
        let (name, result) = self.variable(front);
        let arguments = arguments.trim_end_matches(')').split(',').map(str::trim);
        let arguments: Vec<String> = arguments
            .filter(|argument| !argument.is_empty() && *argument != "void")
            .map(|argument| self.variable(argument))
            .map(|(name, kind)| format!("{name}: {kind}"))
            .collect();
        let result = if result == "c_void" { String::new() } else { format!(" -> {result}") };
        self.functions += &format!("    pub fn {name}({}){result};\n", arguments.join(", "));
    }

    /// Name and Rust type of `const char *const *keep`.
    fn variable(&self, text: &str) -> (String, String) {
        let text = text.trim();
        let end = text.rfind(['*', ' ']).expect("a type and a name") + 1;
        let (before, name) = text.split_at(end);
        let mut levels = before.split('*').map(str::trim);
        let first = levels.next().expect("a type");
        let (mut constant, base) = match first.strip_prefix("const ") {
            Some(base) => (true, base),
            None => (false, first),
        };
        let mut kind = self.base(base);
        let opaque = self.opaque.iter().any(|known| known == base);
        for level in levels {
            kind = format!("*{} {kind}", if constant && !opaque { "const" } else { "mut" });
            constant = level == "const";
        }
        (name.to_owned(), kind)
    }

    fn base(&self, name: &str) -> String {
        let known = match name {
            "void" => "c_void",
            "char" => "c_char",
            "int" => "c_int",
            "int32_t" => "i32",
            "int64_t" => "i64",
            "uint16_t" => "u16",
            "uint64_t" => "u64",
            "size_t" => "usize",
            "float" => "f32",
            "double" => "f64",
            _ if self.handles.iter().any(|handle| handle == name) => "*mut c_void",
            _ if self.opaque.iter().any(|known| known == name) => "c_void",
            _ if name.starts_with("mm_") => return rust_name(name),
            _ => panic!("build/c_header.rs does not know the C type `{name}`"),
        };
        known.to_owned()
    }
}

/// `mm_matrix` -> `Matrix`.
fn rust_name(name: &str) -> String {
    let bare = name.strip_prefix("mm_").expect("names begin with mm_");
    let mut letters = bare.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}
