//! A core module, split into its sections, and written again with additions. Nothing
//! moves: additions come after the module's own types, functions, globals and data,
//! so that every index and name stays right, and what does not change is copied.

use wasm_encoder::{
    CodeSection, ConstExpr, CustomSection, DataCountSection, DataSection, Encode, ExportKind,
    ExportSection, Function, FunctionSection, GlobalSection, GlobalType, NameMap, RawSection,
    Section, SectionId, TagKind, TagSection, TagType, TypeSection, ValType,
};
use wasmparser::{
    BinaryReader, CustomSectionReader, Data, ElementItems, Export, ExternalKind, FuncType,
    FunctionBody, Global, MemoryType, Operator, OperatorsReader, Parser, Payload, TableInit,
    TypeRef,
};

use crate::GuardError;

/// The custom section that marks a guarded module.
pub(crate) const MARK: &str = "functional-scaffold-guard";

/// A parsed core module.
#[derive(Default)]
pub(crate) struct Module<'a> {
    /// Contents of all sections that are not custom, in their order.
    sections: Vec<(u8, &'a [u8])>,
    pub(crate) types: Vec<FuncType>,
    pub(crate) imports: Vec<ImportedFunction<'a>>,
    /// The type of each function, imported ones first.
    pub(crate) functions: Vec<u32>,
    pub(crate) tables: u32,
    pub(crate) imports_table: bool,
    pub(crate) memories: Vec<MemoryType>,
    pub(crate) imports_memory: bool,
    pub(crate) has_tags: bool,
    pub(crate) imported_globals: u32,
    pub(crate) imports_mutable_global: bool,
    pub(crate) globals: Vec<Global<'a>>,
    pub(crate) exports: Vec<Export<'a>>,
    pub(crate) start: Option<u32>,
    /// Functions that a table may hold, in ascending order.
    pub(crate) referenced: Vec<u32>,
    pub(crate) data: Vec<Data<'a>>,
    pub(crate) bodies: Vec<FunctionBody<'a>>,
    pub(crate) custom: Vec<CustomSectionReader<'a>>,
}

pub(crate) struct ImportedFunction<'a> {
    pub(crate) module: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Module<'a> {
    /// Parses a module, which must be valid and not guarded.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, GuardError> {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            module.add(payload?, bytes)?;
        }
        module.referenced.sort_unstable();
        module.referenced.dedup();
        module.check_indices()?;
        Ok(module)
    }

    fn add(&mut self, payload: Payload<'a>, bytes: &'a [u8]) -> Result<(), GuardError> {
        if let Some((id, range)) = payload.as_section()
            && id != u8::from(SectionId::Custom)
        {
            let range = usize::try_from(range.start)
                .ok()
                .zip(usize::try_from(range.end).ok());
            let contents = range.and_then(|(start, end)| bytes.get(start..end));
            self.sections.push((id, contents.unwrap_or_default()));
        }
        match payload {
            Payload::TypeSection(section) => {
                for group in section.into_iter_err_on_gc_types() {
                    self.types.push(group.map_err(|error| {
                        GuardError::Unsupported(format!("it uses garbage collection: {error}"))
                    })?);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    match import.ty {
                        TypeRef::Func(ty) | TypeRef::FuncExact(ty) => {
                            let (module, name) = (import.module, import.name);
                            self.imports.push(ImportedFunction { module, name });
                            self.functions.push(ty);
                        }
                        TypeRef::Table(_) => self.imports_table = true,
                        TypeRef::Memory(_) => self.imports_memory = true,
                        TypeRef::Global(ty) => {
                            self.imported_globals += 1;
                            self.imports_mutable_global |= ty.mutable;
                        }
                        TypeRef::Tag(_) => self.has_tags = true,
                    }
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    self.functions.push(ty?);
                }
            }
            Payload::TableSection(section) => {
                self.tables = section.count();
                for table in section {
                    if let TableInit::Expr(initial) = table?.init {
                        self.add_references(initial.get_operators_reader())?;
                    }
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.memories.push(memory?);
                }
            }
            Payload::TagSection(_) => self.has_tags = true,
            Payload::GlobalSection(section) => {
                for global in section {
                    let global = global?;
                    self.add_references(global.init_expr.get_operators_reader())?;
                    self.globals.push(global);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    self.exports.push(export?);
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(section) => {
                for element in section {
                    match element?.items {
                        ElementItems::Functions(functions) => {
                            for function in functions {
                                self.referenced.push(function?);
                            }
                        }
                        ElementItems::Expressions(_, expressions) => {
                            for expression in expressions {
                                self.add_references(expression?.get_operators_reader())?;
                            }
                        }
                    }
                }
            }
            Payload::DataSection(section) => {
                for data in section {
                    self.data.push(data?);
                }
            }
            Payload::CodeSectionEntry(body) => self.bodies.push(body),
            Payload::CustomSection(section) if section.name() == MARK => {
                return Err(GuardError::AlreadyGuarded);
            }
            Payload::CustomSection(section) => self.custom.push(section),
            _ => {}
        }
        Ok(())
    }

    /// Refuses indices that point nowhere, so that nothing here panics.
    fn check_indices(&self) -> Result<(), GuardError> {
        let mut used = self.reachable().chain(self.start);
        let is_valid = self.functions.iter().all(|ty| self.has_type(*ty))
            && self.functions.len() == self.imports.len() + self.bodies.len()
            && used.all(|function| self.has_function(function));
        match is_valid {
            true => Ok(()),
            false => Err(GuardError::Unsupported(
                "an index in it points nowhere".to_owned(),
            )),
        }
    }

    pub(crate) fn has_function(&self, function: u32) -> bool {
        index(function) < self.functions.len()
    }

    /// Calling this function ends the process.
    pub(crate) fn exits(&self, function: u32) -> bool {
        let import = self.imports.get(index(function));
        import.is_some_and(|import| match (import.module, import.name) {
            ("wasi_snapshot_preview1", "proc_exit") => true,
            (module, "exit" | "exit-with-code") => module.starts_with("wasi:cli/exit@"),
            _ => false,
        })
    }

    /// The functions that code can call without naming them, or the host: by a table or
    /// an export.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = u32> {
        let exports = self.exports.iter();
        let exports = exports.filter(|export| is_function(export.kind));
        let exports = exports.map(|export| export.index);
        exports.chain(self.referenced.iter().copied())
    }

    pub(crate) fn has_type(&self, ty: u32) -> bool {
        index(ty) < self.types.len()
    }

    fn add_references(&mut self, operators: OperatorsReader<'_>) -> Result<(), GuardError> {
        for operator in operators {
            if let Operator::RefFunc { function_index } = operator? {
                self.referenced.push(function_index);
            }
        }
        Ok(())
    }

    /// The type of a function.
    pub(crate) fn function_type(&self, function: u32) -> &FuncType {
        &self.types[index(self.functions[index(function)])]
    }

    /// The index of an exported function.
    pub(crate) fn exported_function(&self, name: &str) -> Option<u32> {
        let mut exports = self.exports.iter();
        let found = exports.find(|export| export.name == name && is_function(export.kind));
        found.map(|export| export.index)
    }

    pub(crate) fn custom_section(&self, name: &str) -> Option<&'a [u8]> {
        let mut sections = self.custom.iter();
        let found = sections.find(|section| section.name() == name);
        found.map(CustomSectionReader::data)
    }

    pub(crate) fn has_mutable_globals(&self) -> bool {
        self.imports_mutable_global || self.globals.iter().any(|global| global.ty.mutable)
    }

    /// Sets all mutable globals of the module's own to their initial values.
    pub(crate) fn reset_globals(&self, code: &mut Function) -> Result<(), GuardError> {
        for (global, index) in self.globals.iter().zip(self.imported_globals..) {
            if global.ty.mutable {
                let mut reader = global.init_expr.get_binary_reader();
                let expression = reader.read_bytes(reader.bytes_remaining())?;
                // Without its `end`.
                let length = expression.len().saturating_sub(1);
                code.raw(expression[..length].iter().copied());
                code.instructions().global_set(index);
            }
        }
        Ok(())
    }

    fn section(&self, id: SectionId) -> Option<&'a [u8]> {
        let mut sections = self.sections.iter();
        let found = sections.find(|(other, _)| *other == u8::from(id));
        found.map(|(_, contents)| *contents)
    }
}

fn is_function(kind: ExternalKind) -> bool {
    matches!(kind, ExternalKind::Func | ExternalKind::FuncExact)
}

/// Items to add to a module.
pub(crate) struct Additions<'m, 'a> {
    module: &'m Module<'a>,
    types: Vec<FuncType>,
    functions: FunctionSection,
    code: CodeSection,
    tags: TagSection,
    globals: GlobalSection,
    data: DataSection,
    /// An export's name, and the function that takes its place.
    exports: Vec<(&'m str, u32)>,
    function_names: NameMap,
    global_names: NameMap,
    custom: Vec<(&'static str, Vec<u8>)>,
}

impl<'m, 'a> Additions<'m, 'a> {
    pub(crate) fn new(module: &'m Module<'a>) -> Self {
        Self {
            module,
            types: Vec::new(),
            functions: FunctionSection::new(),
            code: CodeSection::new(),
            tags: TagSection::new(),
            globals: GlobalSection::new(),
            data: DataSection::new(),
            exports: Vec::new(),
            function_names: NameMap::new(),
            global_names: NameMap::new(),
            custom: Vec::new(),
        }
    }

    /// The index of a function type, which is added unless the module has it.
    pub(crate) fn ty(&mut self, ty: &FuncType) -> u32 {
        let all = self.module.types.iter().chain(&self.types);
        let position = all.clone().position(|other| other == ty);
        let position = position.unwrap_or_else(|| {
            let end = self.module.types.len() + self.types.len();
            self.types.push(ty.clone());
            end
        });
        narrow(position)
    }

    /// Reserves the index of a function, whose code [`Self::define`] adds. They must
    /// be defined in the order in which they were declared.
    pub(crate) fn declare(&mut self, name: &str, ty: &FuncType) -> u32 {
        let index = narrow(self.module.functions.len()) + self.functions.len();
        let ty = self.ty(ty);
        self.functions.function(ty);
        self.function_names.append(index, name);
        index
    }

    pub(crate) fn define(&mut self, code: &Function) {
        self.code.function(code);
    }

    pub(crate) fn global(&mut self, name: &str, val_type: ValType, initial: &ConstExpr) -> u32 {
        let own = narrow(self.module.globals.len());
        let index = self.module.imported_globals + own + self.globals.len();
        let ty = GlobalType {
            val_type,
            mutable: true,
            shared: false,
        };
        self.globals.global(ty, initial);
        self.global_names.append(index, name);
        index
    }

    /// Adds a tag. The module must have none.
    pub(crate) fn tag(&mut self, ty: &FuncType) -> u32 {
        let func_type_idx = self.ty(ty);
        self.tags.tag(TagType {
            kind: TagKind::Exception,
            func_type_idx,
        });
        self.tags.len() - 1
    }

    pub(crate) fn passive_data(&mut self, bytes: &[u8]) -> u32 {
        let index = narrow(self.module.data.len()) + self.data.len();
        self.data.passive(bytes.iter().copied());
        index
    }

    pub(crate) fn replace_export(&mut self, name: &'m str, function: u32) {
        self.exports.push((name, function));
    }

    pub(crate) fn custom_section(&mut self, name: &'static str, data: Vec<u8>) {
        self.custom.push((name, data));
    }

    /// Writes the module with the additions. `bodies` are those of the module's own
    /// functions.
    pub(crate) fn write(self, bodies: &CodeSection) -> Result<Vec<u8>, GuardError> {
        let module = self.module;
        let mut types = TypeSection::new();
        for ty in &self.types {
            let list = |types: &[wasmparser::ValType]| -> Result<Vec<_>, GuardError> {
                types.iter().map(|ty| val_type(*ty)).collect()
            };
            types.ty().function(list(ty.params())?, list(ty.results())?);
        }
        let mut exports = ExportSection::new();
        for export in &module.exports {
            let replaced = self.exports.iter().find(|(name, _)| *name == export.name);
            let index = replaced.map_or(export.index, |(_, index)| *index);
            exports.export(export.name, export_kind(export.kind), index);
        }
        let data_count = DataCountSection {
            count: narrow(module.data.len()) + self.data.len(),
        };
        let code = joined(&contents(bodies)?, &contents(&self.code)?)?;

        let mut output = wasm_encoder::Module::new();
        let added: [(SectionId, &dyn Section); 5] = [
            (SectionId::Type, &types),
            (SectionId::Function, &self.functions),
            (SectionId::Tag, &self.tags),
            (SectionId::Global, &self.globals),
            (SectionId::Data, &self.data),
        ];
        for id in ORDER {
            let section = module.section(id);
            let own = section.unwrap_or(&[0]);
            let data = match id {
                SectionId::Export => contents(&exports)?,
                SectionId::DataCount => contents(&data_count)?,
                SectionId::Code => code.clone(),
                _ => match added.iter().find(|(other, _)| *other == id) {
                    Some((_, added)) => joined(own, &contents(*added)?)?,
                    None => own.to_vec(),
                },
            };
            if section.is_some() || data != [0] {
                output.section(&RawSection {
                    id: id.into(),
                    data: &data,
                });
            }
        }
        for section in &module.custom {
            let name = section.name();
            let data = match name {
                // Nothing depends on names, not even that they are well-formed.
                "name" => match self.names(section.data()) {
                    Ok(names) => names.into(),
                    Err(_) => section.data().into(),
                },
                // Their offsets of instructions would be wrong.
                _ if name.starts_with(".debug_") || name.starts_with("metadata.code.") => continue,
                _ => section.data().into(),
            };
            output.section(&CustomSection {
                name: name.into(),
                data,
            });
        }
        for (name, data) in &self.custom {
            output.section(&CustomSection {
                name: (*name).into(),
                data: data.into(),
            });
        }
        Ok(output.finish())
    }

    /// The contents of the name section, with names for the additions.
    fn names(&self, section: &[u8]) -> Result<Vec<u8>, GuardError> {
        const FUNCTIONS: u8 = 1;
        const GLOBALS: u8 = 7;
        let mut names = Vec::new();
        let mut reader = BinaryReader::new(section, 0);
        while !reader.eof() {
            let id = reader.read_u8()?;
            let length = reader.read_var_u32()?;
            let own = reader.read_bytes(index(length))?;
            names.push(id);
            match id {
                FUNCTIONS => joined(own, &encoded(&self.function_names))?.encode(&mut names),
                GLOBALS => joined(own, &encoded(&self.global_names))?.encode(&mut names),
                _ => own.encode(&mut names),
            }
        }
        Ok(names)
    }
}

/// The order that the binary format requires.
const ORDER: [SectionId; 13] = [
    SectionId::Type,
    SectionId::Import,
    SectionId::Function,
    SectionId::Table,
    SectionId::Memory,
    SectionId::Tag,
    SectionId::Global,
    SectionId::Export,
    SectionId::Start,
    SectionId::Element,
    SectionId::DataCount,
    SectionId::Code,
    SectionId::Data,
];

fn export_kind(kind: ExternalKind) -> ExportKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
        ExternalKind::Table => ExportKind::Table,
        ExternalKind::Memory => ExportKind::Memory,
        ExternalKind::Global => ExportKind::Global,
        ExternalKind::Tag => ExportKind::Tag,
    }
}

/// Two vectors of the binary format, each a count and its items, as one.
fn joined(own: &[u8], added: &[u8]) -> Result<Vec<u8>, GuardError> {
    let (mut own, mut added) = (BinaryReader::new(own, 0), BinaryReader::new(added, 0));
    let count = own.read_var_u32()?.checked_add(added.read_var_u32()?);
    let count =
        count.ok_or_else(|| GuardError::Unsupported("a section has too many items".to_owned()))?;
    let mut both = encoded(&count);
    both.extend_from_slice(own.read_bytes(own.bytes_remaining())?);
    both.extend_from_slice(added.read_bytes(added.bytes_remaining())?);
    Ok(both)
}

/// The contents of a section, without its length.
fn contents(section: &dyn Section) -> Result<Vec<u8>, GuardError> {
    let bytes = encoded(section);
    let mut reader = BinaryReader::new(&bytes, 0);
    let length = reader.read_var_u32()?;
    Ok(reader.read_bytes(index(length))?.to_vec())
}

fn encoded(value: &(impl Encode + ?Sized)) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// An index of the binary format as one of memory.
pub(crate) fn index(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// An index of memory as one of the binary format, in which they are never larger.
pub(crate) fn narrow(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The encoder's name for a type.
pub(crate) fn val_type(ty: wasmparser::ValType) -> Result<ValType, GuardError> {
    Ok(match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(ty) if ty.is_func_ref() => ValType::FUNCREF,
        wasmparser::ValType::Ref(ty) if ty.is_extern_ref() => ValType::EXTERNREF,
        other => return Err(GuardError::Unsupported(format!("values of type {other}"))),
    })
}
