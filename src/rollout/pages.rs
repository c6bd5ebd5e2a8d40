//! Which page of the KV cache holds what: the page tables of sequences, and a radix tree of cached prefixes.
//!
//! A page holds the keys and values of 32 positions of one sequence. A finished (or prefilled) sequence leaves its
//! pages in the tree; a new prompt shares the prefix it has in common with them. Full pages are shared, a page that is
//! common in part is copied. When pages run out, cached ones that nobody uses are evicted, the least recently used
//! first. Plain bookkeeping: the memory itself is `native::KvPages`. vLLM's paged attention (arXiv 2309.06180) and
//! SGLang's RadixAttention (arXiv 2312.07104) do the same.

use crate::native::PAGE;

/// A page's number.
pub type Page = u32;

/// The pages of one sequence, in order.
#[derive(Debug, Default)]
pub struct PageTable {
    pages: Vec<Page>,
}

impl PageTable {
    /// The pages' numbers.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }
}

/// A page that must be copied before the sequence is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyPage {
    /// The page whose keys and values are copied.
    pub from: Page,
    /// The page that they are copied into.
    pub to: Page,
}

#[derive(Debug)]
struct Node {
    page: Page,
    /// Up to 32 tokens whose keys and values the page holds; fewer only in a leaf.
    tokens: Vec<u32>,
    parent: usize,
    children: Vec<usize>,
    used: u64,
}

/// All pages of a cache: which are free, which are in use, which hold a cached prefix.
#[derive(Debug)]
pub struct PagePool {
    /// Users of each page: page tables, and the tree.
    ref_counts: Vec<u32>,
    free_pages: Vec<Page>,
    /// The tree; node 0 is the root and holds no page.
    nodes: Vec<Option<Node>>,
    empty: Vec<usize>,
    clock: u64,
}

const ROOT: usize = 0;

impl PagePool {
    /// `count` free pages.
    pub fn new(count: usize) -> Self {
        let root = Node { page: 0, tokens: Vec::new(), parent: ROOT, children: Vec::new(), used: 0 };
        Self {
            ref_counts: vec![0; count],
            free_pages: (0..count as Page).rev().collect(),
            nodes: vec![Some(root)],
            empty: Vec::new(),
            clock: 0,
        }
    }

    /// The number of pages in the pool, free or in use.
    pub fn count(&self) -> usize {
        self.ref_counts.len()
    }

    fn node(&self, index: usize) -> &Node {
        self.nodes[index].as_ref().expect("the tree's links lead to nodes")
    }

    fn node_mut(&mut self, index: usize) -> &mut Node {
        self.nodes[index].as_mut().expect("the tree's links lead to nodes")
    }

    /// A page table that starts with the cached prefix of `prompt`, and how many of the prompt's tokens it holds (never
    /// all of them: the last one's logits are needed). A page that is common in part is named to be copied.
    pub fn allocate(&mut self, prompt: &[u32]) -> (PageTable, usize, Option<CopyPage>) {
        self.clock += 1;
        let most = prompt.len().saturating_sub(1);
        let (mut at, mut held) = (ROOT, 0);
        let mut table = PageTable::default();
        while let Some(next) = self.child(at, &prompt[held..]) {
            let common = common(&self.node(next).tokens, &prompt[held..most]);
            self.node_mut(next).used = self.clock;
            if common < PAGE {
                break;
            }
            let page = self.node(next).page;
            self.ref_counts[page as usize] += 1;
            table.pages.push(page);
            held += PAGE;
            at = next;
        }
        // The page that shares the longest part of the remaining tokens.
        let rest = &prompt[held..most];
        let best = self.node(at).children.iter().map(|&c| (common(&self.node(c).tokens, rest), c)).max();
        let Some((part, from)) = best.filter(|&(part, _)| part > 0) else { return (table, held, None) };
        let from = self.node(from).page;
        // Held while a page is looked for, so that it is not evicted for itself.
        self.ref_counts[from as usize] += 1;
        let to = self.allocate_page();
        self.release_page(from);
        let Some(to) = to else { return (table, held, None) };
        table.pages.push(to);
        (table, held + part, Some(CopyPage { from, to }))
    }

    /// How many of a prompt's tokens [`PagePool::allocate`] would find.
    pub fn cached_prefix(&self, prompt: &[u32]) -> usize {
        let most = prompt.len().saturating_sub(1);
        let (mut at, mut held) = (ROOT, 0);
        while let Some(next) = self.child(at, &prompt[held..]).filter(|_| held + PAGE <= most) {
            held += PAGE;
            at = next;
        }
        let part = |&c: &usize| common(&self.node(c).tokens, &prompt[held..most]);
        held + self.node(at).children.iter().map(part).max().unwrap_or(0)
    }

    /// The child of `at` that holds exactly the next 32 tokens.
    fn child(&self, at: usize, tokens: &[u32]) -> Option<usize> {
        let wanted = tokens.get(..PAGE)?;
        self.node(at).children.iter().copied().find(|&c| self.node(c).tokens == wanted)
    }

    /// Extends a page table for `positions` positions.
    ///
    /// # Errors
    /// The number of pages that are missing, when all are in use.
    pub fn reserve(&mut self, table: &mut PageTable, positions: usize) -> Result<(), usize> {
        let wanted = positions.div_ceil(PAGE);
        while table.pages.len() < wanted {
            match self.allocate_page() {
                Some(page) => table.pages.push(page),
                None => return Err(wanted - table.pages.len()),
            }
        }
        Ok(())
    }

    /// A free page, or one that only the tree holds.
    fn allocate_page(&mut self) -> Option<Page> {
        if self.free_pages.is_empty() {
            self.evict_one();
        }
        let page = self.free_pages.pop()?;
        self.ref_counts[page as usize] = 1;
        Some(page)
    }

    /// Evicts the least recently used leaf that no sequence uses.
    fn evict_one(&mut self) {
        let leaves = self.nodes.iter().enumerate().skip(1).filter_map(|(i, node)| {
            let node = node.as_ref()?;
            (node.children.is_empty() && self.ref_counts[node.page as usize] == 1).then_some((node.used, i))
        });
        let Some((_, index)) = leaves.min() else { return };
        let node = self.nodes[index].take().expect("a leaf");
        self.node_mut(node.parent).children.retain(|&c| c != index);
        self.empty.push(index);
        self.release_page(node.page);
    }

    fn release_page(&mut self, page: Page) {
        let users = &mut self.ref_counts[page as usize];
        *users -= 1;
        if *users == 0 {
            self.free_pages.push(page);
        }
    }

    /// Puts a page table's pages into the tree under `tokens`, which must be what they hold; the sequence keeps using them.
    pub fn insert(&mut self, table: &PageTable, tokens: &[u32]) {
        self.clock += 1;
        let mut at = ROOT;
        for (page, tokens) in table.pages.iter().zip(tokens.chunks(PAGE)) {
            if let Some(known) = self.child(at, tokens) {
                self.node_mut(known).used = self.clock;
                at = known;
                continue;
            }
            // A shorter beginning of the same page becomes this one.
            let shorter =
                self.node(at).children.iter().copied().find(|&c| tokens.starts_with(&self.node(c).tokens));
            let longer = self.node(at).children.iter().any(|&c| self.node(c).tokens.starts_with(tokens));
            if longer {
                return;
            }
            self.ref_counts[*page as usize] += 1;
            at = match shorter {
                Some(index) => {
                    let clock = self.clock;
                    let node = self.node_mut(index);
                    node.tokens = tokens.to_vec();
                    node.used = clock;
                    let old = std::mem::replace(&mut node.page, *page);
                    self.release_page(old);
                    index
                }
                None => self.add(at, *page, tokens),
            };
        }
    }

    fn add(&mut self, parent: usize, page: Page, tokens: &[u32]) -> usize {
        let node = Node { page, tokens: tokens.to_vec(), parent, children: Vec::new(), used: self.clock };
        let index = self.empty.pop().unwrap_or(self.nodes.len());
        if index == self.nodes.len() {
            self.nodes.push(Some(node));
        } else {
            self.nodes[index] = Some(node);
        }
        self.node_mut(parent).children.push(index);
        index
    }

    /// Gives a sequence's pages back.
    pub fn free(&mut self, table: PageTable) {
        for page in table.pages {
            self.release_page(page);
        }
    }
}

/// Tokens that two lists have in common at their start.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(n: usize, seed: u32) -> Vec<u32> {
        (0..n as u32).map(|i| i * 7 + seed).collect()
    }

    #[test]
    fn a_turn_takes_over_the_one_before() {
        let mut pages = PagePool::new(8);
        let first = tokens(70, 0);
        let (mut a, held, copy) = pages.allocate(&first);
        assert_eq!((held, copy), (0, None));
        pages.reserve(&mut a, 70).unwrap();
        pages.insert(&a, &first);
        let own = a.pages().to_vec();
        pages.free(a);
        // The same beginning, another end: two whole pages and 5 of the third's 6 tokens.
        let mut second = first.clone();
        second[69] = 9999;
        second.extend(tokens(20, 5));
        let (b, held, copy) = pages.allocate(&second);
        assert_eq!(held, 69);
        assert_eq!(b.pages()[..2], own[..2]);
        assert_eq!(copy, Some(CopyPage { from: own[2], to: b.pages()[2] }));
        assert_ne!(b.pages()[2], own[2]);
        // The very same prompt leaves its last token to compute.
        assert_eq!(pages.allocate(&first).1, 69);
    }

    #[test]
    fn pages_in_use_are_never_given_away_and_the_oldest_memory_goes_first() {
        let mut pages = PagePool::new(4);
        let (old, new, third) = (tokens(32, 0), tokens(32, 1), tokens(96, 2));
        for prompt in [&old, &new] {
            let (mut s, ..) = pages.allocate(prompt);
            pages.reserve(&mut s, 32).unwrap();
            pages.insert(&s, prompt);
            pages.free(s);
        }
        let (mut s, ..) = pages.allocate(&third);
        pages.reserve(&mut s, 96).unwrap();
        let with = |end: u32, prompt: &[u32]| [prompt, &[end]].concat();
        assert_eq!(pages.allocate(&with(1, &old)).1, 0);
        assert_eq!(pages.reserve(&mut s, 160), Err(1));
        assert_eq!(s.pages().len(), 4);
    }

    proptest! {
        /// Whatever is started, remembered and released: no page is lost or given out twice, and a sequence only ever
        /// starts with pages that hold its own prompt.
        #[test]
        fn nothing_is_lost(steps in prop::collection::vec((0u32..3, 1usize..90, 0usize..40, any::<bool>()), 1..60)) {
            let mut pages = PagePool::new(12);
            let mut content: Vec<Vec<u32>> = vec![Vec::new(); 12];
            let mut alive: Vec<PageTable> = Vec::new();
            for (seed, n, own, keep) in steps {
                let mut prompt = tokens(n, 0);
                prompt.truncate(n.saturating_sub(own).max(1));
                prompt.extend(tokens(own, seed));
                let known = pages.cached_prefix(&prompt);
                let (mut s, held, copy) = pages.allocate(&prompt);
                // Fewer only where no page was left for a copy.
                prop_assert!(held < prompt.len() && (held == known || held == known / PAGE * PAGE));
                if let Some(CopyPage { from, to }) = copy {
                    content[to as usize] = content[from as usize].clone();
                }
                for (i, page) in s.pages().iter().enumerate() {
                    let part = &prompt[i * PAGE..held.min((i + 1) * PAGE)];
                    prop_assert!(content[*page as usize].starts_with(part));
                }
                if pages.reserve(&mut s, prompt.len()).is_ok() {
                    for (page, part) in s.pages().iter().zip(prompt.chunks(PAGE)) {
                        content[*page as usize] = part.to_vec();
                    }
                    pages.insert(&s, &prompt);
                }
                if keep && alive.len() < 3 { alive.push(s) } else { pages.free(s) }
            }
            for s in alive { pages.free(s); }
            let held: usize = pages.nodes.iter().skip(1).flatten().count();
            prop_assert_eq!(pages.free_pages.len() + held, 12);
            while pages.free_pages.len() < 12 {
                let before = pages.free_pages.len();
                pages.evict_one();
                prop_assert!(pages.free_pages.len() > before);
            }
        }
    }
}
