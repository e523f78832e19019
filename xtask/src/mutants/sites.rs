//! Where in a file mutants can be woven in.

use std::collections::HashMap;
use std::ops::Range;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// A place that can be replaced, in bytes of the file.
#[derive(Clone, Debug)]
pub struct Site {
    /// All that the replacement stands for.
    pub whole: Range<usize>,
    /// What is evaluated by the compiler only.
    pub constant: bool,
}

/// The places of one file.
#[derive(Default)]
pub struct Sites {
    /// Operations with two operands, and with one, by where the operator starts.
    pub operators: HashMap<usize, Site>,
    /// What is between the braces of functions.
    pub bodies: Vec<Site>,
    /// Arms of `match` by where they start: the guard, or where one would be.
    pub arms: HashMap<usize, Site>,
    /// Guards, by where they start.
    pub guards: HashMap<usize, Site>,
    /// Fields in struct expressions that end with a base, by where they start.
    pub fields: HashMap<usize, Field>,
    constant: u32,
}

/// A field whose value may come from the base instead.
#[derive(Clone)]
pub struct Field {
    pub site: Site,
    pub name: String,
    pub base: Range<usize>,
}

impl Sites {
    /// Finds them.
    pub fn of(text: &str) -> syn::Result<Self> {
        let mut sites = Self::default();
        sites.visit_file(&syn::parse_file(text)?);
        Ok(sites)
    }

    fn site(&self, whole: Range<usize>) -> Site {
        Site {
            whole,
            constant: self.constant > 0,
        }
    }

    fn body(&mut self, block: &syn::Block) {
        let braces = block.brace_token.span;
        let inside = braces.open().byte_range().end..braces.close().byte_range().start;
        self.bodies.push(self.site(inside));
    }

    fn constant(&mut self, visit: impl FnOnce(&mut Self)) {
        self.constant += 1;
        visit(self);
        self.constant -= 1;
    }
}

/// Whether an operand is part of a condition that binds names, which has to stay where it is.
fn binds(expr: &syn::Expr) -> bool {
    match expr {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Sites {
    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        if !binds(&expr.left) && !binds(&expr.right) {
            let at = expr.op.span().byte_range().start;
            let site = self.site(expr.span().byte_range());
            self.operators.insert(at, site);
        }
        visit::visit_expr_binary(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        let at = expr.op.span().byte_range().start;
        let site = self.site(expr.span().byte_range());
        self.operators.insert(at, site);
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        let is_any = |arm: &syn::Arm| arm.guard.is_none() && matches!(arm.pat, syn::Pat::Wild(_));
        let has_any = expr.arms.iter().any(is_any);
        for arm in &expr.arms {
            let end = arm.pat.span().byte_range().end;
            let guard = arm
                .guard
                .as_ref()
                .map(|(_, guard)| guard.span().byte_range());
            if let Some(guard) = &guard {
                self.guards.insert(guard.start, self.site(guard.clone()));
            }
            // Without one that takes the rest, no other can go.
            if has_any || guard.is_some() {
                let site = self.site(guard.unwrap_or(end..end));
                self.arms.insert(arm.span().byte_range().start, site);
            }
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_expr_struct(&mut self, expr: &'ast syn::ExprStruct) {
        if let Some(base) = &expr.rest {
            for field in &expr.fields {
                let syn::Member::Named(name) = &field.member else {
                    continue;
                };
                let whole = field.span().byte_range();
                let field = Field {
                    site: self.site(whole.clone()),
                    name: name.to_string(),
                    base: base.span().byte_range(),
                };
                self.fields.insert(whole.start, field);
            }
        }
        visit::visit_expr_struct(self, expr);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.constant(|sites| visit::visit_item_const(sites, item));
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.constant(|sites| visit::visit_impl_item_const(sites, item));
    }

    fn visit_trait_item_const(&mut self, item: &'ast syn::TraitItemConst) {
        self.constant(|sites| visit::visit_trait_item_const(sites, item));
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.constant(|sites| visit::visit_item_static(sites, item));
    }

    fn visit_type_array(&mut self, array: &'ast syn::TypeArray) {
        self.constant(|sites| visit::visit_type_array(sites, array));
    }

    fn visit_expr_repeat(&mut self, expr: &'ast syn::ExprRepeat) {
        self.visit_expr(&expr.expr);
        self.constant(|sites| sites.visit_expr(&expr.len));
    }

    fn visit_expr_const(&mut self, expr: &'ast syn::ExprConst) {
        self.constant(|sites| visit::visit_expr_const(sites, expr));
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        self.constant(|sites| visit::visit_variant(sites, variant));
    }

    fn visit_generic_argument(&mut self, argument: &'ast syn::GenericArgument) {
        self.constant(|sites| visit::visit_generic_argument(sites, argument));
    }
}
