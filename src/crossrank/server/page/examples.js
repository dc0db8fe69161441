// The examples of the page. The bundled model was not trained on these texts.

const LEASE = `Harbour View Apartments, general conditions of lease.
The landlord lets the apartment to the tenant for the purpose of living in it, and for no other. The rent is due on the first working day of each month, and is paid to the account named on the first page. A deposit of two months' rent is kept on a separate account.
The tenant keeps the rooms clean and airs them daily. Small repairs of up to 80 euros are the tenant's own business; everything beyond that is reported to the caretaker, who sends a craftsman. Windows are cleaned at least twice a year. Bicycles are kept in the cellar, and prams may stand in the hall as long as the way to the stairs stays free. Music and noise are kept down between ten in the evening and seven in the morning.
Pets need the landlord's consent, which is given unless the neighbours have good reasons against it. Fish and other small animals in cages or tanks need none. Smoking is not allowed in the hall, in the lift and in the cellar. A satellite dish may be put up only where no cable connection is offered.
Whoever wants to move out before the agreed term has ended may do so with three months' notice in writing, if a new job is more than fifty kilometres away or an illness makes the stairs impossible. In all other cases a successor must be found whom the landlord accepts.
Heating costs are divided by consumption to seventy per cent, and by floor area to thirty per cent. The meters are read in January by a company that announces itself two weeks before. Water is charged by the meter in each apartment. The bill for the past year comes in April, and is paid or paid back within thirty days. The costs of the lift, the caretaker, the garden, the lighting of the stairs and the insurance of the house are divided by floor area.
The landlord may enter the apartment after announcing it three days before, and at once where there is danger. Changes to the building, such as walls, pipes and floors, need consent in writing. Nails and screws of the usual kind are allowed; the holes are filled when the tenant moves out. The walls are returned in light colours. The keys, all of them, are handed over on the last day together with a signed protocol that lists the state of every room, the numbers on all meters, and the new address of the tenant.
Notices are given in writing, by letter or by electronic mail with a confirmation. If a part of these conditions should be void, the rest of them remains in force. The place of jurisdiction is where the apartment lies. The tenant has received a copy of the rules of the house, the energy certificate and the plan of the cellar.`;

export const EXAMPLES = [
  {
    id: "battery",
    first: "zh",
    label: { en: "中文: phone battery", zh: "手机电池" },
    query: "手机电池怎么保养才耐用？",
    documents: [
      "这款手机的电池容量为五千毫安时。",
      "耐用的手机壳可以保护手机屏幕。",
      "汽车要定期去修理厂保养。",
      "让电量保持在两成到八成之间，并避开高温，可以延缓老化。",
    ],
  },
  {
    id: "sleep",
    label: { en: "中文: sleep", zh: "睡眠" },
    query: "怎样才能睡得更好？",
    documents: [
      "更好的床垫在家居商场三楼有售。",
      "怎样才能考得更好？老师给出三条建议。",
      "固定作息，睡前一小时不看屏幕，卧室保持凉爽安静。",
      "他睡得很晚，第二天没有去上班。",
    ],
  },
  {
    id: "flight",
    first: "en",
    label: { en: "Cancelled flight", zh: "英文：航班取消" },
    query: "How do I get my money back for a cancelled flight?",
    documents: [
      "How much money do pilots get for a long flight?",
      "He came back from his flight and counted his money.",
      "The flight was cancelled because of thick fog over the airport.",
      "Passengers whose trip is called off by the airline can claim a full refund online.",
    ],
  },
  {
    id: "bread",
    label: { en: "Moldy bread", zh: "英文：发霉的面包" },
    query: "Is it safe to eat moldy bread?",
    documents: [
      "Sourdough bread is safe to freeze and easy to eat.",
      "How to bake bread at home in a safe oven.",
      "Throw the whole loaf away: fungus threads reach far beyond the spots you see.",
      "Moldy walls are not safe; call a professional.",
    ],
  },
  {
    id: "long",
    label: { en: "A long document", zh: "长文档" },
    query: "When can I end the lease early?",
    documents: [
      "The lease may be signed early in the morning at our office.",
      "Early leases of the harbour date from the 17th century, and their end came with the railway.",
      LEASE,
    ],
  },
  {
    id: "languages",
    label: { en: "Many languages", zh: "多种语言" },
    query: "How do plants make their food?",
    documents: [
      "This restaurant makes food from plants, and its chef is known for how he grows them.",
      "Feed your house plants with plant food in spring.",
      "植物通过光合作用，利用阳光把二氧化碳和水变成糖。",
      "Les usines alimentaires fabriquent des plats surgelés.",
      "Grüne Blätter bauen mit Licht aus Wasser und Kohlendioxid Zucker auf.",
      "植物園は毎日九時に開きます。",
      "تصنع الأوراق الخضراء السكر من ضوء الشمس والماء وثاني أكسيد الكربون.",
      "Las plantas de interior necesitan poca agua en invierno.",
      "Растения превращают свет, воду и углекислый газ в сахар.",
    ],
  },
];
